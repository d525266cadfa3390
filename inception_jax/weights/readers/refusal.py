"""Exceptions of readers. Their messages call the file "it"; `read_content` puts the name of the file before them."""


class Refused(ValueError):
    """The file is refused; the message continues "... looks like a file of X, but"."""


class MissingPackage(ImportError):
    """A package is not installed; the message continues "PATH is read with"."""
