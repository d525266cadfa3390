"""Why a file is not read: readers say it of "it", and `read_tensors` says which file."""


class Refused(ValueError):
    """The file is not what it should be; the message goes on after "... looks like a file of X, but"."""


class MissingPackage(ImportError):
    """The message goes on after "PATH is read with"."""
