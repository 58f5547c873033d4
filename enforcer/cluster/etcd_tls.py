# SPDX-License-Identifier: GPL-2.0-or-later
"""TLS towards etcd: the context made of the configured files as they are now, and what a failed handshake means.

The server's certificate and its name are always checked, against the configured authorities alone and never those
of the system; TLS 1.2 is the least. Nothing of the environment is heeded (OpenSSL's SSLKEYLOGFILE would give a
root daemon's session keys away), and a key that wants a passphrase is refused instead of asked for.

**Certificates are renewed while we run.** Every other second a new connection looks whether the files are others
than before; what was connected under the old ones is then not used again. Certificate and key are two files, so
for a moment they do not belong together: files that cannot be used change nothing while there is an older context.
The look is taken by a thread and waited for a moment only: the keeper must go on renewing while the disk with the
files hangs.

**No certificate is refused here because of its date.** The clock of a machine that boots may be wrong, and a renewed
file mends it without a restart. But when the other side refuses, the dates say why.
"""

from __future__ import annotations

import asyncio
import logging
import os
import ssl
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from enforcer.model.errors import StoreUnavailable

log = logging.getLogger(__name__)
LOOK_EVERY_S = 2.0
LOOK_WAIT_S = 0.1  # then the older context must do
MAX_BYTES = 1 << 20

# X509_V_ERR_* of OpenSSL's x509_vfy.h
_NOT_YET, _EXPIRED = 9, 10
_UNKNOWN_ISSUER = frozenset({2, 18, 19, 20, 21})
_NAME_MISMATCH = frozenset({62, 64})  # host name, IP address

Validity = tuple[datetime, datetime]


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """[store]: paths of PEM files, "" for none, and the name to look for instead of the endpoint's."""

    ca: str
    cert: str = ""
    key: str = ""
    server_name: str = ""


@dataclass(frozen=True, slots=True)
class _Loaded:
    context: ssl.SSLContext
    stamp: tuple[object, ...]
    validity: dict[str, Validity]


class Tls:
    """The context for new connections. Belongs to one event loop."""

    def __init__(self, files: TlsFiles) -> None:
        self.files = files
        self.generation = 0  # grows whenever other files are in use
        self._loaded: _Loaded | None = None
        self._trouble: StoreUnavailable | None = None  # of the files as they are now
        self._look: asyncio.Task[None] | None = None
        self._look_again = 0.0

    async def context(self) -> ssl.SSLContext:
        """The newest that could be made. Raises StoreUnavailable, naming the file, if none ever could."""
        now = asyncio.get_running_loop().time()
        if self._look is None and now >= self._look_again:
            self._look_again = now + LOOK_EVERY_S
            self._look = asyncio.create_task(self._refresh())
            await asyncio.wait({self._look}, timeout=LOOK_WAIT_S)
        if self._loaded is None and self._look is not None:
            await asyncio.wait({self._look})
        if self._loaded is None:
            self._look_again = 0.0
            raise self._trouble or StoreUnavailable(f"{self.files.ca} could not be read yet")
        return self._loaded.context

    def check(self) -> None:
        """Read the files, at once. Raises StoreUnavailable, naming the one that cannot be used."""
        _load(self.files, None)

    async def _refresh(self) -> None:
        old = self._loaded
        try:
            new = await asyncio.to_thread(_load, self.files, old.stamp if old else None)
        except StoreUnavailable as error:
            if old is not None and str(error) != str(self._trouble):
                log.warning("%s; the certificates read before are used on", error)
            self._trouble = error
        else:
            self._trouble = None
            if new is not None:
                self._loaded = new
                self.generation += 1
                if old is not None:
                    log.info("certificates of the lease store were read again")
        finally:
            self._look = None

    def explain(self, error: Exception) -> tuple[str, str] | None:
        """Sentence and remedy for a failed handshake; None for any other error."""
        if not isinstance(error, ssl.SSLError):
            return None
        sentence, remedy = self._explain(error)
        return (f"{sentence}; {self._trouble}", self._trouble.hint) if self._trouble else (sentence, remedy)

    def _explain(self, error: ssl.SSLError) -> tuple[str, str]:
        if isinstance(error, ssl.SSLCertVerificationError):
            return self._unverified(error)
        reason = error.reason or ""
        if "ALERT" in reason and ("CERTIFICATE" in reason or "UNKNOWN_CA" in reason):
            cert = self.files.cert
            if not cert:
                return "it wants a client certificate", "set cert and key in [store] of enforcer.toml"
            if dated := self._dated(cert):
                return f"it refuses the client certificate: {cert} {dated}", f"put a renewed one into {cert}"
            alert = reason.rpartition("ALERT_")[2].replace("_", " ").lower()
            return f"it refuses the client certificate {cert} ({alert})", "is its authority in etcd's trusted-ca-file?"
        if reason in ("UNSUPPORTED_PROTOCOL", "TLSV1_ALERT_PROTOCOL_VERSION"):
            return "it speaks no TLS 1.2 or newer", "let etcd offer TLS 1.2"
        if reason in ("WRONG_VERSION_NUMBER", "HTTP_REQUEST", "RECORD_LAYER_FAILURE"):
            return "it does not speak TLS", "let etcd serve clients by https"
        return f"TLS failed: {reason.replace('_', ' ').lower() or error}", "look into etcd's log"

    def _unverified(self, error: ssl.SSLCertVerificationError) -> tuple[str, str]:
        files, code = self.files, error.verify_code
        if code in _UNKNOWN_ISSUER:
            return (
                f"its certificate is not signed by an authority in {files.ca}",
                "set ca in [store] of enforcer.toml to etcd's own",
            )
        told = f"its certificate is not accepted: {error.verify_message.rstrip('.')}"
        if code in _NAME_MISMATCH:
            return told, "write endpoints as the certificate names them, or set server_name in [store] of enforcer.toml"
        if code in (_EXPIRED, _NOT_YET):
            if dated := self._dated(files.ca):
                return f"its authority is not valid now: {files.ca} {dated}", f"put the present one into {files.ca}"
            return told, "renew it on that member, or set the clock right"
        return told, "look at it with: openssl s_client -showcerts -connect HOST:PORT"

    def _dated(self, path: str) -> str:
        """That the (first) certificate of a file is not valid at this time, or ""."""
        if self._loaded is None or path not in self._loaded.validity:
            return ""
        begin, end = self._loaded.validity[path]
        now = datetime.now(UTC)
        if now >= end:
            return f"expired on {end:%Y-%m-%d %H:%M} UTC"
        return f"is not valid before {begin:%Y-%m-%d %H:%M} UTC" if now < begin else ""


def _load(files: TlsFiles, known: tuple[object, ...] | None) -> _Loaded | None:
    """The context, or None if the files are those that are known. Raises StoreUnavailable."""
    paths = [path for path in (files.ca, files.cert, files.key) if path]
    stamp = tuple(_stamp(path) for path in paths)
    if stamp == known:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # checks certificates and names
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    authorities, _ = _read(files.ca)
    try:
        context.load_verify_locations(cadata=authorities.decode("ascii", "ignore"))
    except (ssl.SSLError, ValueError):
        raise _unusable(files.ca, "holds no certificate", "write the authorities into it as PEM") from None
    validity = _validity(files.ca, authorities)
    if files.cert:
        validity |= _validity(files.cert, _read(files.cert)[0])
        _load_own(context, files)
    return _Loaded(context, stamp, validity)


def _load_own(context: ssl.SSLContext, files: TlsFiles) -> None:
    key, mode = _read(files.key)
    if mode & 0o007:
        raise _unusable(files.key, "is a private key that everybody may reach", f"chmod 600 {files.key}")
    if b"ENCRYPTED" in key:
        raise _unusable(files.key, "needs a passphrase", "store the key without one, readable by root alone")
    try:
        context.load_cert_chain(files.cert, files.key, password="")  # never asks at a terminal
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise _unusable(files.key, f"is not the key of {files.cert}", "put the pair there") from None
        what = f"and {files.key} are no certificate with its key"
        raise _unusable(files.cert, what, "write both as PEM") from None
    except OSError as error:
        raise _unusable(files.cert, f"cannot be read: {error.strerror}", "check the file") from None


def _unusable(path: str, what: str, remedy: str) -> StoreUnavailable:
    return StoreUnavailable(f"the lease store cannot be used: {path} {what}", hint=remedy)


def _read(path: str) -> tuple[bytes, int]:
    """Content and mode."""
    try:
        with open(path, "rb") as stream:
            return stream.read(MAX_BYTES), os.fstat(stream.fileno()).st_mode
    except OSError as error:
        what = f"cannot be read: {error.strerror}"
        raise _unusable(path, what, "put it there, or correct [store] in enforcer.toml") from None


def _stamp(path: str) -> object:
    try:
        found = Path(path).stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_mtime_ns, found.st_ctime_ns, found.st_size


def _validity(path: str, pem: bytes) -> dict[str, Validity]:
    """From when until when the first certificate of a file is valid; nothing if that cannot be told."""
    begin, end = b"-----BEGIN CERTIFICATE-----", b"-----END CERTIFICATE-----"
    try:
        first = pem[pem.index(begin) : pem.index(end) + len(end)].decode("ascii")
        return {path: validity(ssl.PEM_cert_to_DER_cert(first))}
    except (ValueError, IndexError):
        return {}


def validity(der: bytes) -> Validity:
    """notBefore and notAfter of a certificate (RFC 5280, 4.1). Raises ValueError, IndexError.

    The ssl module tells them of a peer's certificate only, and only after a handshake that went well.
    """

    def element(at: int) -> tuple[int, int, int]:
        tag, length, at = der[at], der[at + 1], at + 2
        if length & 0x80:
            size = length & 0x7F
            length, at = int.from_bytes(der[at : at + size], "big"), at + size
        return tag, at, at + length

    _, at, _ = element(0)  # Certificate
    _, at, _ = element(at)  # TBSCertificate
    tag, _, _ = element(at)
    skipped = 4 if tag == 0xA0 else 3  # version (may be absent), serialNumber, signature, issuer
    for _ in range(skipped):
        _, _, at = element(at)
    _, at, _ = element(at)  # Validity
    moments = []
    for _ in range(2):
        tag, begin, at = element(at)
        form = {0x17: "%y%m%d%H%M%SZ", 0x18: "%Y%m%d%H%M%SZ"}[tag] if tag in (0x17, 0x18) else ""
        moments.append(datetime.strptime(der[begin:at].decode("ascii"), form).replace(tzinfo=UTC))
    return moments[0], moments[1]
