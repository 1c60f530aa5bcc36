"""The lab: plants known backdoors so that every claim is measured."""
