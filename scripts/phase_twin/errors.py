"""The one exception a user is meant to read."""


class UserError(Exception):
    """A mistake or fault outside the code, told in one line: what, where, what to do."""
