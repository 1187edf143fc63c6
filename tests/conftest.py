"""What all tests have in common: no example of a property has a deadline, since a busy machine keeps none."""

from hypothesis import settings

settings.register_profile("any machine", deadline=None)
settings.load_profile("any machine")
