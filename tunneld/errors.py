"""The errors that end a command, each with its exit code and a remedy.

Exit codes (a contract that scripts and systemd units rely on): 0 stopped by a signal, 1 failed,
2 bad usage or configuration, 3 lease lost.
"""


class TunneldError(Exception):
    """Something a user can act on; printed as one line, never as a traceback.

    Attributes:
        exit_code: what the process ends with when nobody handles the error.
        remedy: what the user can do about it, or an empty string.
    """

    exit_code = 1

    def __init__(self, message: str, *, remedy: str = "") -> None:
        super().__init__(message)
        self.remedy = remedy

    def __str__(self) -> str:
        text = super().__str__()
        return f"{text} ({self.remedy})" if self.remedy else text


class ConfigError(TunneldError):
    """A flag, a variable, a file or the network config is wrong (exit code 2).

    Attributes:
        field: the name of the field, flag or variable.
        source: where the value came from ("flag --iface", "DIR/config", ...).
    """

    exit_code = 2

    def __init__(
        self, message: str, *, field: str = "", source: str = "", remedy: str = ""
    ) -> None:
        super().__init__(message, remedy=remedy)
        self.field = field
        self.source = source

    def __str__(self) -> str:
        where = ", ".join(part for part in (self.source, self.field) if part)
        return f"{where}: {super().__str__()}" if where else super().__str__()


class StartError(TunneldError):
    """The host lacks something that the daemon needs (exit code 1)."""


class ConfigChangedError(TunneldError):
    """The network config is another one than we started with (exit code 1: start anew)."""


class LeaseLostError(TunneldError):
    """Another owner holds our subnet now (exit code 3)."""

    exit_code = 3
