"""What one side of a mutually authenticated connection shows and trusts. Not here: making certificates (`ote.pki`)."""

from __future__ import annotations

from dataclasses import dataclass, field

import grpc


@dataclass(frozen=True)
class TlsIdentity:
    """All PEM. certificate_chain: leaf first, issuers after it. private_key: the leaf's. root: whom to trust."""

    certificate_chain: bytes
    private_key: bytes = field(repr=False)
    root: bytes


def channel_credentials(identity: TlsIdentity) -> grpc.ChannelCredentials:
    """For a client that shows its certificate and trusts only the root."""
    return grpc.ssl_channel_credentials(
        root_certificates=identity.root,
        private_key=identity.private_key,
        certificate_chain=identity.certificate_chain,
    )


class ServerTls:
    """A server's credentials, whose certificate may be changed while it runs."""

    def __init__(self, identity: TlsIdentity) -> None:
        self._identity = identity
        self._served = identity

    def reload(self, identity: TlsIdentity) -> None:
        """Connections made from now on are shown this; those that are open stay as they are."""
        self._identity = identity

    def credentials(self) -> grpc.ServerCredentials:
        """Requires and verifies a client certificate on every connection."""
        self._served = self._identity
        return grpc.dynamic_ssl_server_credentials(
            _configuration(self._served),
            self._renewed,  # type: ignore[arg-type]  # None is documented: no change
            require_client_authentication=True,
        )

    def _renewed(self) -> grpc.ServerCertificateConfiguration | None:
        """Asked by gRPC's own threads before each handshake; None leaves the certificate as it is."""
        identity = self._identity
        if identity is self._served:
            return None
        self._served = identity
        return _configuration(identity)


def _configuration(identity: TlsIdentity) -> grpc.ServerCertificateConfiguration:
    pair = (identity.private_key, identity.certificate_chain)
    return grpc.ssl_server_certificate_configuration([pair], root_certificates=identity.root)
