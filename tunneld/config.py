"""Options of `tunneld run`: flag > `FLANNELD_*` environment > file (TOML) > default.

Every error names the option and the source that it came from.
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import cast

from tunneld.errors import ConfigError
from tunneld.options import BY_NAME, OPTIONS, Option
from tunneld.store.etcd_options import Endpoint, EtcdOptions

# Never repeated in an error: a URL may hold a password too.
_SECRET = {"etcd-endpoints", "etcd-password"}


@dataclass(frozen=True, slots=True)
class Config:
    """The options of one daemon, checked.

    Attributes:
        store: store URL, for example `file:/etc/tunneld/store`.
        etcd: servers, prefix, TLS and user of the etcd store.
        iface: candidates for the external interface, in order.
        iface_regex: regular expressions tried after `iface`.
        iface_can_reach: the interface that routes to this address is external.
        subnet_file: where subnet.env goes.
        public_ip: the address announced to the peers; None: the external interface's.
        renew_margin: seconds before its end at which the lease is renewed.
        ip_masq: masquerade what leaves the network.
        ip_masq_random: with random ports.
        forward_rules: accept the network in FORWARD.
        rules_resync: seconds between two comparisons of the firewall rules.
        healthz_ip: address of the health port.
        healthz_port: TCP port of /healthz, /readyz and /metrics; 0: none.
        metrics_public: /metrics is for everybody, not for loopback clients only.
        verbosity: flannel's `-v`.
        dataplane: rung of the ladder, or "auto".
        threads: "auto", "1" or "2".
        queues: of the TUN.
        source_check: "peer", "strict" or "off".
        allow_sources: further legal outer sources.
        run_dir: holds `tunneld.sock` and `lock`.
        state_dir: outlives reboots.
        sources: option -> where its value came from, for later errors.
    """

    store: str
    etcd: EtcdOptions
    iface: tuple[str, ...]
    iface_regex: tuple[str, ...]
    iface_can_reach: str | None
    subnet_file: Path
    public_ip: IPv4Address | None
    renew_margin: float
    ip_masq: bool
    ip_masq_random: bool
    forward_rules: bool
    rules_resync: float
    healthz_ip: IPv4Address
    healthz_port: int
    metrics_public: bool
    verbosity: int
    dataplane: str
    threads: str
    queues: int
    source_check: str
    allow_sources: tuple[IPv4Network, ...]
    run_dir: Path
    state_dir: Path
    sources: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class _Given:
    """The texts of one option and where they were found."""

    texts: tuple[str, ...]
    source: str


def load(flags: Mapping[str, Sequence[str]], environ: Mapping[str, str]) -> Config:
    """Combine the four sources into one checked configuration.

    Args:
        flags: option name -> the values given on the command line (last one wins unless the
            option is repeatable); may hold `config`, the TOML file.
        environ: the process environment.

    Raises:
        ConfigError: naming the option and its source.
    """
    values: dict[str, object] = {}
    sources: dict[str, str] = {}
    from_file = _from_file(flags, environ)
    for option in OPTIONS:
        given = _from_flag(option, flags) or _from_environment(option, environ)
        given = given or from_file.get(option.name)
        values[option.name] = _value(option, given)
        sources[option.name] = given.source if given else "default"
    public_ip = cast("str", values["public-ip"])
    return Config(
        store=cast("str", values["store"]),
        etcd=_etcd(values, sources),
        iface=cast("tuple[str, ...]", values["iface"]),
        iface_regex=cast("tuple[str, ...]", values["iface-regex"]),
        iface_can_reach=cast("str", values["iface-can-reach"]) or None,
        subnet_file=Path(cast("str", values["subnet-file"])),
        public_ip=IPv4Address(public_ip) if public_ip else None,
        renew_margin=60.0 * cast("int", values["subnet-lease-renew-margin"]),
        ip_masq=cast("bool", values["ip-masq"]),
        ip_masq_random=not values["ip-masq-fully-random-disable"],
        forward_rules=cast("bool", values["iptables-forward-rules"]),
        rules_resync=float(cast("int", values["iptables-resync"])),
        # An empty address is flannel's "not given".
        healthz_ip=IPv4Address(cast("str", values["healthz-ip"]) or "0.0.0.0"),  # noqa: S104
        healthz_port=cast("int", values["healthz-port"]),
        metrics_public=cast("bool", values["metrics-public"]),
        verbosity=cast("int", values["v"]),
        dataplane=cast("str", values["dataplane"]),
        threads=cast("str", values["threads"]),
        queues=cast("int", values["queues"]),
        source_check=cast("str", values["source-check"]),
        allow_sources=cast("tuple[IPv4Network, ...]", values["allow-source"]),
        run_dir=Path(cast("str", values["run-dir"])),
        state_dir=Path(cast("str", values["state-dir"])),
        sources=sources,
    )


def _etcd(values: Mapping[str, object], sources: Mapping[str, str]) -> EtcdOptions:
    def text(name: str) -> str:
        return cast("str", values[f"etcd-{name}"])

    for one, other in (("certfile", "keyfile"), ("username", "password")):
        for given, missing in ((one, other), (other, one)):
            if text(given) and not text(missing):
                raise ConfigError(
                    f"is of no use without etcd-{missing}", source=sources[f"etcd-{given}"]
                )
    return EtcdOptions(
        endpoints=cast("tuple[Endpoint, ...]", values["etcd-endpoints"]),
        prefix=text("prefix"),
        keyfile=text("keyfile"),
        certfile=text("certfile"),
        cafile=text("cafile"),
        username=text("username"),
        password=text("password"),
    )


def _from_flag(option: Option, flags: Mapping[str, Sequence[str]]) -> _Given | None:
    texts = flags.get(option.name)
    return _Given(tuple(texts), f"flag --{option.name}") if texts else None


def _from_environment(option: Option, environ: Mapping[str, str]) -> _Given | None:
    text = environ.get(option.variable)
    # flannel treats an empty variable as one that is not set.
    return _Given((text,), f"environment {option.variable}") if text else None


def _from_file(
    flags: Mapping[str, Sequence[str]], environ: Mapping[str, str]
) -> Mapping[str, _Given]:
    named = flags.get("config") or [environ.get("FLANNELD_CONFIG", "")]
    if not named[-1]:
        return {}
    path = Path(named[-1])
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(
            f"cannot read {path}: {error.strerror}", field="config", source="flag --config"
        ) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"not valid TOML: {error}", source=f"file {path}") from error
    return {name: _file_value(name, value, path) for name, value in document.items()}


def _file_value(name: str, value: object, path: Path) -> _Given:
    source = f"file {path}"
    option = BY_NAME.get(name)
    if option is None:
        raise ConfigError("no such option", field=name, source=source, remedy=_suggestion(name))
    if isinstance(value, list) and option.repeatable:
        return _Given(tuple(_toml_text(name, item, source) for item in value), source)
    return _Given((_toml_text(name, value, source),), source)


def _toml_text(name: str, value: object, source: str) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str | int):
        return str(value)
    raise ConfigError(f"a {type(value).__name__} is not a value for it", field=name, source=source)


def _suggestion(name: str) -> str:
    close = difflib.get_close_matches(name.replace("_", "-"), BY_NAME, n=1)
    return f"did you mean {close[0]}?" if close else "`tunneld run --help` lists them"


def _value(option: Option, given: _Given | None) -> object:
    if given is None:
        return () if option.repeatable else option.parse(option.default)
    if not option.repeatable:
        return _one(option, given.texts[-1], given.source)
    texts: Iterable[str] = given.texts
    if option.name == "allow-source":
        # A CIDR holds no comma; an environment variable can be given only once.
        texts = [part.strip() for text in texts for part in text.split(",")]
    return tuple(_one(option, text, given.source) for text in texts)


def _one(option: Option, text: str, source: str) -> object:
    # A flag and a variable say by their own name which option they are.
    field = option.name if source.startswith("file ") else ""
    try:
        value = option.parse(text)
    except ValueError as error:
        shown = "" if option.name in _SECRET else f"{text!r} "
        raise ConfigError(f"{shown}{error}", field=field, source=source) from error
    if option.refusal and value != option.parse(option.default):
        raise ConfigError(f"refused: {option.refusal}", field=field, source=source)
    return value
