"""The process of a canary's learned members: `python -m levibot.serving.canary_child VERSION MEMORY_MB`.

As that of a shadow model, but it says what each kind of members says of the newest row: the rules, the
weights and the blend are the router's, as they are of the version that serves.
"""

from __future__ import annotations

import sys

from levibot.features.views import CORE
from levibot.learning.blending import kinds_of
from levibot.learning.learned_members import LearnedMembers
from levibot.learning.past import columns_of
from levibot.market.bars import FloatArray
from levibot.serving.canary_process import numbers_of
from levibot.serving.shadow_child import Predict, answer_for_ever, checked


def load(version: str) -> Predict:
    """Every learned member of the registered version. Raises RegistryError."""
    stored = checked(version, "Take it out of the router's user_config.")
    members = LearnedMembers.from_files(stored.metadata, stored.files, kinds_of(stored.metadata))

    def predict(windows: FloatArray) -> dict[str, FloatArray]:
        return numbers_of(members.say_newest(columns_of(windows, CORE.names, members.blending.feature_names)))

    return predict


if __name__ == "__main__":
    answer_for_ever(lambda: load(sys.argv[1]), int(sys.argv[2]))
