"""The TLS context of a connection, from the files that the settings name."""

from __future__ import annotations

import ssl

from tidewire_link.errors import TlsFailed
from tidewire_link.settings import LinkSettings


def tls_context(settings: LinkSettings) -> ssl.SSLContext:
    """Trusts `ca_file`, or what the system trusts, and shows `cert_file` to the broker where there is one.

    Raises:
        TlsFailed: a file cannot be used.
    """
    try:
        context = ssl.create_default_context(cafile=settings.ca_file and str(settings.ca_file))
        if settings.cert_file is not None:
            # A callable password: without it OpenSSL asks on the terminal for the passphrase of an encrypted key.
            context.load_cert_chain(settings.cert_file, settings.key_file, password=lambda: "")
    except (OSError, ValueError) as error:
        files = [str(path) for path in (settings.ca_file, settings.cert_file, settings.key_file) if path]
        raise TlsFailed(f"the certificate files ({', '.join(files)}) cannot be used: {error}") from None
    return context
