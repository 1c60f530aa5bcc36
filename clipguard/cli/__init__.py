"""The command line: parse, call one workflow, show, exit code."""
