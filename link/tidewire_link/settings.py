"""How to reach the broker, and the limits of the connection."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, NamedTuple, Self
from urllib.parse import unquote, urlsplit

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, model_validator

from tidewire_schemas.errors import SettingError

Scheme = Literal["mqtt", "mqtts", "ws", "wss"]
_DEFAULT_PORTS: dict[str, int] = {"mqtt": 1883, "mqtts": 8883, "ws": 80, "wss": 443}
_URL_HINT = "write it as mqtt://host, mqtts://host:8883, ws://host:9001/path or wss://host"


class Will(BaseModel):
    """The message that the broker publishes for us when the connection ends without a goodbye."""

    model_config = ConfigDict(defer_build=True, frozen=True, extra="forbid")

    topic: str
    payload: bytes
    retain: bool = True


class BrokerAddress(NamedTuple):
    """A broker URL in its parts; `path` matters for websockets alone."""

    scheme: Scheme
    host: str
    port: int
    path: str
    username: str | None
    password: str | None

    @property
    def tls(self) -> bool:
        """Whether the connection is encrypted."""
        return self.scheme in ("mqtts", "wss")

    @property
    def websockets(self) -> bool:
        """Whether MQTT travels inside a websocket."""
        return self.scheme in ("ws", "wss")

    def __str__(self) -> str:
        """The address without user and password: fit for logs."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}{self.path if self.websockets else ''}"


class BrokerSettings(BaseModel):
    """What a person may set about the connection, besides the broker's address. Durations in seconds, sizes in bytes.

    The settings of agent and hub inherit from it, so that both have the same flags.
    """

    model_config = ConfigDict(defer_build=True, frozen=True, extra="forbid", hide_input_in_errors=True)

    username: str | None = None
    """User name; wins over the one in the URL."""
    password: SecretStr | None = None
    """Password; wins over the one in the URL."""
    password_file: Path | None = None
    """File whose first line is the password, read at each connection, so it can be changed while running."""
    protocol: Literal["5", "3.1.1"] = "5"
    """MQTT version; "5" tells why something is refused, "3.1.1" is for older brokers."""
    keepalive_s: int = Field(default=30, ge=1, le=65535)
    """Longest silence; a half-open connection is noticed after at most 1.5 times this."""
    connect_timeout_s: float = Field(default=10.0, gt=0, le=300)
    """Longest time for name, TCP, TLS and the broker's welcome together."""
    puback_timeout_s: float = Field(default=20.0, gt=0, le=3600)
    """A broker that confirms nothing for this long counts as gone. On a slow link the time in which something large
    gets on, up or down, does not count, here and wherever an answer is waited for."""
    reconnect_delay_min_s: float = Field(default=0.5, gt=0, le=3600)
    """Upper end of the first random delay before connecting again; it doubles with each failure."""
    reconnect_delay_max_s: float = Field(default=60.0, gt=0, le=86400)
    """Longest delay. With a thousand devices and full jitter, a restarted broker sees some 17 connections a second."""
    stable_after_s: float = Field(default=30.0, ge=0, le=86400)
    """A connection must hold this long before delays begin small again, so a broker that drops us is not stormed."""
    inflight_max: int = Field(default=1000, ge=1, le=65535)
    """Publishes that may wait for the broker's PUBACK; the broker's ReceiveMaximum may lower it."""
    inflight_bytes_max: int = Field(default=8 * 1024 * 1024, ge=1)
    """Bytes of these; one message is always allowed."""
    inbound_messages_max: int = Field(default=2000, ge=1)
    """Received messages not yet taken by the consumer; beyond it the broker is held back."""
    inbound_bytes_max: int = Field(default=32 * 1024 * 1024, ge=1024)
    """Bytes of these, and the largest packet that is accepted from the broker."""
    unacked_max: int = Field(default=100, ge=1, le=65535)
    """Received messages beyond these limits that the broker may still send unconfirmed (MQTT 5: ReceiveMaximum)."""
    ca_file: Path | None = None
    """Certificates that sign the broker's; the system's when unset."""
    cert_file: Path | None = None
    """Our own certificate, for brokers that ask for one."""
    key_file: Path | None = None
    """The key of `cert_file`, when it is not in the same file."""

    def broker_values(self) -> dict[str, object]:
        """These settings alone, to make `LinkSettings` of them."""
        return {name: getattr(self, name) for name in BrokerSettings.model_fields}


class LinkSettings(BrokerSettings):
    """Everything about one connection to a broker."""

    url: str = "mqtt://127.0.0.1:1883"
    """mqtt://, mqtts://, ws:// or wss://, host, optional port; user:password@ is allowed."""
    client_id: str = Field(min_length=1, max_length=200)
    """The MQTT client id; a broker ends the older of two connections with the same id."""
    payload_bytes_max: int = Field(default=100_000, ge=1024, le=200 * 1024 * 1024)
    """Largest message to publish; every known broker takes 100,000 bytes."""
    will: Will | None = None
    """Published by the broker when we vanish."""

    @classmethod
    def of(cls, **values: object) -> Self:
        """Settings from loose values.

        Raises:
            SettingError: says which setting is wrong and what to do.
        """
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            name = ".".join(str(part) for part in first["loc"]) or "broker settings"
            raise SettingError(f"{name}: {first['msg']}") from None

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        address = parse_url(self.url)
        if self.password is not None and self.password_file is not None:
            raise SettingError("password and password_file are both set", hint="give one of them")
        if self.reconnect_delay_max_s < self.reconnect_delay_min_s:
            raise SettingError("reconnect_delay_max_s is below reconnect_delay_min_s")
        if self.key_file is not None and self.cert_file is None:
            raise SettingError("key_file is set without cert_file", hint="give the certificate too")
        if (self.ca_file or self.cert_file) and not address.tls:
            raise SettingError(
                f"certificate files are set, but {address} is not encrypted", hint="use mqtts:// or wss://"
            )
        return self

    @property
    def address(self) -> BrokerAddress:
        """The URL in its parts."""
        return parse_url(self.url)

    def credentials(self) -> tuple[str | None, str | None]:
        """User name and password to connect with now.

        Raises:
            SettingError: `password_file` cannot be read.
        """
        address = self.address
        username = self.username if self.username is not None else address.username
        if self.password is not None:
            return username, self.password.get_secret_value()
        if self.password_file is None:
            return username, address.password
        try:
            lines = self.password_file.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise SettingError(
                f"password_file {self.password_file} cannot be read: {error}",
                hint="it must be a text file this user may read",
            ) from None
        return username, lines[0] if lines else ""


def parse_url(url: str) -> BrokerAddress:
    """A broker URL in its parts.

    Raises:
        SettingError: not such a URL; the message never holds its password.
    """
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise SettingError(f"the broker URL cannot be read: {error}", hint=_URL_HINT) from None
    scheme = parts.scheme.lower()
    if scheme not in _DEFAULT_PORTS or "://" not in url:
        known = f"scheme {scheme!r}" if "://" in url else "no scheme"
        raise SettingError(f"the broker URL has {known}", hint=_URL_HINT)
    if not parts.hostname:
        raise SettingError("the broker URL names no host", hint=_URL_HINT)
    if port == 0:
        raise SettingError("port 0 in the broker URL cannot be connected to", hint=_URL_HINT)
    if parts.query or parts.fragment or (scheme in ("mqtt", "mqtts") and parts.path not in ("", "/")):
        raise SettingError("the broker URL has something after host and port", hint=_URL_HINT)
    return BrokerAddress(
        scheme=scheme,  # type: ignore[arg-type]  # one of the keys above
        host=parts.hostname,
        port=port or _DEFAULT_PORTS[scheme],
        path=parts.path or "/",
        username=unquote(parts.username) if parts.username is not None else None,
        password=unquote(parts.password) if parts.password is not None else None,
    )
