"""The options for TLS of every command that speaks to a cluster."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import argparse

    from ktriage.jobs.fleet.tls import Role


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options, which ``dask worker`` has, too."""
    group = parser.add_argument_group(
        "TLS, for a scheduler at tls://", "in place of what Dask's configuration and environment say"
    )
    group.add_argument("--tls-ca-file", metavar="FILE", type=Path, help="the CA of all certificates, in PEM")
    group.add_argument("--tls-cert", metavar="FILE", type=Path, help="this side's certificate")
    group.add_argument("--tls-key", metavar="FILE", type=Path, help="its key")


def apply(args: argparse.Namespace, role: Role = "client") -> None:
    """Take what was given; raises UserError where ``distributed`` is not installed."""
    if args.tls_ca_file or args.tls_cert or args.tls_key:
        from ktriage.jobs.fleet.tls import use_files

        use_files(role, args.tls_ca_file, args.tls_cert, args.tls_key)
