"""Servers of Debian's packages that tests run beside the embedded ones; `make test-stores` installs them."""
