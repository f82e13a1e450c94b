"""The kernel with its debug information, which is 283 MB to fetch: only on request."""

from __future__ import annotations

import os

import pytest

from ktriage.kernel import Kernel, packaged_kernel


@pytest.fixture(scope="session")
def debug_kernel(kernel: Kernel) -> Kernel:
    """Return the kernel with a vmlinux; fetched where KTRIAGE_DEBUGINFO is set, else only if it is there."""
    if kernel.vmlinux is None and os.environ.get("KTRIAGE_DEBUGINFO"):
        kernel = packaged_kernel(kernel.package, headers=True, debuginfo=True)
    if kernel.vmlinux is None:
        pytest.skip(f"no debug information for {kernel.release}: KTRIAGE_DEBUGINFO=1 fetches it (283 MB)")
    return kernel
