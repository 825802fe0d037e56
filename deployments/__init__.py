"""The Ray Serve application: an HTTP face and a graph. Thin shells over `levibot` and `actors`."""
