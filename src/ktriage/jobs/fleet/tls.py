"""TLS for everything that speaks to a Dask cluster, as Dask has it.

Dask takes its files from its configuration (``distributed.comm.tls`` in YAML, or variables that begin with
``DASK_DISTRIBUTED__COMM__TLS__``); what a command line names is put there, so that whatever connects later
in this process finds it.
"""

from __future__ import annotations

import logging
import ssl
from typing import TYPE_CHECKING, Any, Literal

from ktriage.errors import UserError

if TYPE_CHECKING:
    from pathlib import Path

Role = Literal["client", "worker"]
HINT = "--tls-ca-file, --tls-cert and --tls-key, or Dask's configuration; docs/fleet.md has the commands"


def need_distributed() -> Any:  # noqa: ANN401 (it has no types)
    """Import and return ``distributed``, which is silent then; raises UserError where it is not installed."""
    try:
        import distributed
    except ImportError:
        raise UserError(
            "the package distributed is not installed", hint="pip install 'ktriage[cluster]'"
        ) from None
    # What it says of itself, with its tracebacks, is for its own developers; what matters of it we say.
    # Some of its loggers have a level of their own.
    for name in [name for name in logging.root.manager.loggerDict if name.split(".")[0] == "distributed"]:
        logging.getLogger(name).setLevel(logging.CRITICAL)
    return distributed


def use_files(role: Role, ca_file: Path | None, cert: Path | None, key: Path | None) -> None:
    """Take these files in place of what Dask's configuration says; with any of them, TLS alone will do."""
    named = {"ca-file": ca_file, f"{role}.cert": cert, f"{role}.key": key}
    given = {name: str(path) for name, path in named.items() if path is not None}
    if not given:
        return
    need_distributed()
    import dask

    dask.config.set({f"distributed.comm.tls.{name}": path for name, path in given.items()})
    dask.config.set({"distributed.comm.require-encryption": True})


def security(address: str, role: Role) -> Any:  # noqa: ANN401 (distributed has no types)
    """Return what ``distributed.Client`` and ``Worker`` take as ``security`` for a scheduler's address.

    Raises UserError where the address asks for TLS and the files for it are missing or don't fit together,
    where it doesn't and TLS is required, and where ``distributed`` is not installed.
    """
    made = need_distributed().Security()
    try:
        context = made.get_connection_args(role)["ssl_context"]
    except (OSError, ValueError) as error:
        raise UserError(f"{address}: {_files(made, role)}: {_why(error)}", hint=HINT) from None
    if address.startswith("tls://") and context is None:
        missing = "a CA file" if not made.tls_ca_file else f"a certificate for this {role}"
        raise UserError(f"{address}: TLS needs {missing}", hint=HINT)
    if made.require_encryption and not address.startswith("tls://"):
        raise UserError(f"{address}: not encrypted, which is required here", hint="give a tls:// address")
    return made


def _files(made: Any, role: Role) -> str:  # noqa: ANN401
    config = made.get_tls_config_for_role(role)
    return ", ".join(str(config[name]) for name in ("ca_file", "cert", "key") if config[name])


def _why(error: Exception) -> str:
    """Say what is wrong with files; OpenSSL's own words for it name constants of its sources."""
    words = str(error)
    if "KEY_VALUES_MISMATCH" in words:
        return "the key is not the certificate's"
    if isinstance(error, ssl.SSLError):
        return "not in PEM, or not what they should be"
    return getattr(error, "strerror", None) or words


def why_not(address: str, error: BaseException) -> str:
    """Say in one line why a connection to a scheduler came to nothing."""
    chain = [error]
    while (inner := chain[-1].__cause__ or chain[-1].__context__) is not None and inner not in chain:
        chain.append(inner)
    if any(isinstance(one, ssl.SSLCertVerificationError) for one in chain):
        return "the scheduler's certificate is not of the CA that is trusted here"
    if address.startswith("tls://") and any(
        isinstance(one, (ssl.SSLError, ConnectionError)) for one in chain
    ):
        return "TLS failed: this certificate is not of the CA that the scheduler trusts, or it speaks no TLS"
    if any(isinstance(one, ConnectionResetError) for one in chain):
        return "it closed the connection, as one does that is at tls://"
    if isinstance(error, TimeoutError) or "Timed out" in str(error):
        return (
            "it does not answer"
            if address.startswith("tls://")
            else "it does not answer, or not without tls://"
        )
    return str(error) or "it does not answer"
