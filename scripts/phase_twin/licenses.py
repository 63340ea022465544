"""Licences of weights whose text a release can carry."""

# SPDX id -> file of release/ with the text; MIT is our own LICENSE
LICENSES = {"Apache-2.0": "LICENSE-APACHE-2.0.txt", "MIT": None}


def spdx_spelling(name: str) -> str:
    """The SPDX id that `name` is but for upper and lower case, as hubs write it; `name` itself where none is known."""
    return {known.lower(): known for known in LICENSES}.get(name.lower(), name)


def cannot_carry(name: str) -> str | None:
    """Why no release can be made of weights under the licence `name`; None where one can."""
    return None if name in LICENSES else f"model.license is {name!r}; a release can carry: {', '.join(LICENSES)}"
