"""`python -m clipguard`."""

from clipguard.cli.app import run

run()
