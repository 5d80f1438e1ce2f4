"""Time-stamping authorities: certificates by OpenSSL, replies by `openssl ts`, behind a small HTTP server that can also
do everything an authority should not."""

import base64
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from tempfile import TemporaryDirectory

from vmsh_scheduler.anchors.der import element, encode, inside

POLICY, OTHER_POLICY = "1.2.3.4.1", "1.2.3.4.5.6"
USER, PASSWORD = "stamp", "hunter2-hunter2"
REJECTION = bytes.fromhex("3009300702010203020204")  # status rejection, bad data format
UNAVAILABLE = bytes.fromhex("300c300a02010203050600000040")  # status rejection, system failure
_LEAF = "basicConstraints=critical,CA:FALSE\nkeyUsage=critical,digitalSignature\nextendedKeyUsage={usage}\n"
_INTERMEDIATE = "basicConstraints=critical,CA:TRUE,pathlen:0\nkeyUsage=critical,keyCertSign,cRLSign\n"
_CONFIG = """\
[tsa]
default_tsa = t
[t]
dir = {at}
serial = {at}/{name}.serial
signer_cert = {at}/{name}.pem
signer_key = {at}/{name}.key
certs = {at}/{chain}.pem
signer_digest = sha256
default_policy = {policy}
other_policies = {other}
digests = sha256
accuracy = secs:1
ordering = yes
tsa_name = yes
ess_cert_id_chain = yes
ess_cert_id_alg = sha256
"""


def _openssl(at: Path, *argv: str) -> None:
    subprocess.run(["openssl", *argv], cwd=at, capture_output=True, check=True, env={"PATH": "/usr/bin:/bin"})


def _new_key(at: Path, name: str, *argv: str) -> None:
    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", f"{name}.key"]
    _openssl(at, "req", *key, "-subj", f"/O=Test/CN={name}", *argv)


def _root(at: Path, name: str) -> None:
    usage = ["-addext", "basicConstraints=critical,CA:TRUE", "-addext", "keyUsage=critical,keyCertSign,cRLSign"]
    _new_key(at, name, "-x509", "-days", "3650", "-out", f"{name}.pem", *usage)


def _issue(at: Path, name: str, issuer: str, extensions: str) -> None:
    _new_key(at, name, "-out", f"{name}.csr")
    (at / f"{name}.ext").write_text(extensions)
    signed = ["-CA", f"{issuer}.pem", "-CAkey", f"{issuer}.key", "-CAcreateserial", "-days", "730"]
    _openssl(at, "x509", "-req", "-in", f"{name}.csr", *signed, "-out", f"{name}.pem", "-extfile", f"{name}.ext")


def _authority(at: Path, name: str, chain: str) -> None:
    (at / f"{name}.serial").write_text("01\n")
    config = _CONFIG.format(at=at, name=name, chain=chain, policy=POLICY, other=OTHER_POLICY)
    (at / f"{name}.cnf").write_text(config)


def make_authorities(at: Path) -> Path:
    """`root.pem` over `inter` over `tsa` and its `sister`; `rogue.pem` over `roguetsa`; `mixed`: of root, but its key
    is for more than time stamps."""
    at.mkdir(parents=True, exist_ok=True)
    for name in ("root", "rogue"):
        _root(at, name)
    _issue(at, "inter", "root", _INTERMEDIATE)
    alone, more = _LEAF.format(usage="critical,timeStamping"), _LEAF.format(usage="critical,timeStamping,codeSigning")
    for name, issuer, extensions in (
        ("tsa", "inter", alone),
        ("sister", "inter", alone),
        ("roguetsa", "rogue", alone),
    ):
        _issue(at, name, issuer, extensions)
        _authority(at, name, issuer)
    _issue(at, "mixed", "inter", more)
    return at


@dataclass
class Tsa:
    """A running server; what it does is chosen by the path of the URL."""

    at: Path
    server: ThreadingHTTPServer
    asked: list[str] = field(default_factory=list)
    """Paths, in the order in which requests came."""
    logins: list[str] = field(default_factory=list)
    first: bytes = b""
    arrived: threading.Event = field(default_factory=threading.Event)
    """Set when a request to /held is there."""
    release: threading.Event = field(default_factory=threading.Event)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def url(self, path: str = "/tsr") -> str:
        return f"http://127.0.0.1:{self.server.server_address[1]}{path}"

    @property
    def root(self) -> Path:
        return self.at / "root.pem"

    @property
    def rogue(self) -> Path:
        return self.at / "rogue.pem"

    def stamp(self, query: bytes, name: str = "tsa") -> bytes:
        """By `openssl ts -reply`; one at a time, because of the serial's file."""
        with TemporaryDirectory() as directory, self.lock:
            asked, reply = Path(directory, "q"), Path(directory, "r")
            asked.write_bytes(query)
            files = ["-config", f"{name}.cnf", "-queryfile", str(asked), "-out", str(reply)]
            _openssl(self.at, "ts", "-reply", *files)
            return reply.read_bytes()

    def _signed_by(self, reply: bytes, name: str, *how: str) -> bytes:
        """The same content under another signature, which `openssl ts` refuses to make: by a key that is for more,
        without the signer's certificate in what is signed (but for `-cades`), over a weak hash."""
        _, token = inside(reply, element(reply))
        data = element(reply, inside(reply, token)[1].content)
        content = inside(reply, inside(reply, data)[2])[1]
        info = element(reply, content.content)
        with TemporaryDirectory() as directory:
            (Path(directory) / "info").write_bytes(reply[info.content : info.end])
            kind = ["-econtent_type", "1.2.840.113549.1.9.16.1.4", "-binary", "-nodetach", "-outform", "DER"]
            keys = ["-signer", f"{name}.pem", "-inkey", f"{name}.key", "-certfile", "inter.pem"]
            files = ["-in", f"{directory}/info", "-out", f"{directory}/signed"]
            _openssl(self.at, "cms", "-sign", *kind, *keys, *(() if "-md" in how else ("-md", "sha256")), *how, *files)
            signed = (Path(directory) / "signed").read_bytes()
        return encode(0x30, bytes.fromhex("3003020100") + signed)

    def answer(self, path: str, query: bytes, login: str) -> tuple[int, str, bytes]:
        """Status, content type, body."""
        self.asked.append(path)
        self.logins.append(login)
        kind = "application/timestamp-reply"
        match path:
            case "/500" | "/503" | "/404" | "/302":
                return int(path[1:]), "text/plain", b"no"
            case "/html":
                return 200, "text/html", b"<html>sign in to this network</html>"
            case "/auth" if login != "Basic " + base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode():
                return 401, "text/plain", b"who are you"
            case "/held":
                self.arrived.set()
                self.release.wait(60)
                return 200, kind, self.stamp(query)
        return 200, kind, self._reply(path, query)

    def _reply(self, path: str, query: bytes) -> bytes:
        made: dict[str, Callable[[], bytes]] = {
            "/rogue": lambda: self.stamp(query, "roguetsa"),
            "/sister": lambda: self.stamp(query, "sister"),
            "/mixed": lambda: self._signed_by(self.stamp(query), "mixed"),
            "/anonymous": lambda: self._signed_by(self.stamp(query), "tsa"),
            "/bare": lambda: self._signed_by(self.stamp(query), "tsa", "-noattr"),
            "/sha1": lambda: self._signed_by(self.stamp(query), "tsa", "-cades", "-md", "sha1"),
            "/cades": lambda: self._signed_by(self.stamp(query), "tsa", "-cades"),
            "/reject": lambda: REJECTION,
            "/unavailable": lambda: UNAVAILABLE,
            "/empty": lambda: b"",
            "/garbage": lambda: b"\x30\x82\xff\xff" + bytes(range(256)),
            "/big": lambda: self.stamp(query) + bytes(100_000),
            "/policy": lambda: self.stamp(without_policy(query)),
            "/mods": lambda: self.stamp(query).replace(b"\x30\x03\x02\x01\x00", b"\x30\x03\x02\x01\x01", 1),
            "/unsorted": lambda: unsorted(self.stamp(query)),
            "/replay": lambda: self._first(query),
        }
        return made.get(path, lambda: self.stamp(query))()

    def _first(self, query: bytes) -> bytes:
        self.first = self.first or self.stamp(query)
        return self.first


def without_policy(query: bytes) -> bytes:
    whole = element(query)
    kept = [query[part.start : part.end] for part in inside(query, whole) if part.tag != 0x06]
    return encode(whole.tag, b"".join(kept))


def unsorted(reply: bytes) -> bytes:
    """With the certificates in the order that DER forbids; same length, nothing signed is touched."""
    token = inside(reply, element(reply))[1]
    explicit = inside(reply, token)[1]
    data = element(reply, explicit.content)
    place = next(part for part in inside(reply, data) if part.tag == 0xA0)
    parts = [reply[part.start : part.end] for part in inside(reply, place)]
    return reply[: place.content] + b"".join(sorted(parts, reverse=True)) + reply[place.end :]


@contextmanager
def serving(at: Path) -> Iterator[Tsa]:
    """`at`: of `make_authorities`."""

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *args: object) -> None:
            pass

        def do_POST(self) -> None:
            query = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            if self.path == "/drip":
                self._drip()
                return
            status, kind, body = tsa.answer(self.path, query, self.headers.get("Authorization", ""))
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            if status == 302:
                self.send_header("Location", tsa.url())
            self.end_headers()
            try:
                self.wfile.write(body)
            except OSError:  # whoever asked was killed meanwhile
                self.close_connection = True

        def _drip(self) -> None:
            """A byte now and then: no single wait is long."""
            try:
                self.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
                while not tsa.release.wait(0.05):
                    self.wfile.write(b"\x30")
            except OSError:
                self.close_connection = True

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    tsa = Tsa(at, server)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield tsa
    finally:
        tsa.release.set()
        server.shutdown()
        server.server_close()
        thread.join()
