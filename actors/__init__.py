"""Long-lived Ray actors: state with a name that the whole cluster shares. Thin shells over `levibot`.

Every actor is detached, restarts without limit and rebuilds what it knows from the stores.
"""

NAMESPACE = "levibot"
