"""The error of a stage that cannot run."""

from rewards.errors import UserError


class LaunchError(UserError):
    """A stage that cannot go on; the message says what to do."""
