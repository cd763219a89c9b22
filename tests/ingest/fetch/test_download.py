"""Downloads from a real server that misbehaves in each way we have a name for."""

from __future__ import annotations

import datetime
import gzip
import hashlib
import ipaddress
import json
import socket
import ssl
import time

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from loopback_site import drip

from triforce.ingest.corpus.records import RejectReason
from triforce.ingest.errors import Rejected
from triforce.ingest.fetch import addresses, connections
from triforce.ingest.fetch import download as downloads
from triforce.ingest.fetch.download import download
from triforce.ingest.fetch.retries import retry_after_s
from triforce.ingest.fetch.web import get_document

DAY = datetime.timedelta(days=1)
BODY = bytes(range(256)) * 4096  # 1 MiB


@pytest.fixture(params=["through the library", "past it"], autouse=True)
def way(request, monkeypatch):
    """Both ways in which a body comes, as small ones and large ones do."""
    monkeypatch.setattr(downloads, "LEAST_DIRECT_BYTES", 1 if request.param == "past it" else 1 << 40)


def scripted(*answers):
    """A page's script: the n-th request gets the n-th answer, those behind the last one the page itself."""

    def script(handler, before: int) -> bool:
        if before < len(answers):
            answers[before](handler)
            return True
        return False

    return script


def dropping(after: int, **headers):
    """Promise the whole body, send ``after`` bytes of it, hang up."""
    etag = f'"{hashlib.sha256(BODY).hexdigest()[:12]}"'
    return lambda handler: handler.answer(200, BODY[:after], {"ETag": etag} | headers, length=len(BODY))


def refusing(status: int, **headers):
    return lambda handler: handler.answer(status, b"", {key.replace("_", "-"): value for key, value in headers.items()})


def check(result, body: bytes = BODY) -> None:
    assert result.path.read_bytes() == body
    assert (result.num_bytes, result.sha256) == (len(body), hashlib.sha256(body).hexdigest())
    assert not result.path.with_name(result.path.name + ".json").exists()


def rejection(url: str, path, settings) -> Rejected:
    with pytest.raises(Rejected) as caught:
        download(url, path, settings)
    return caught.value


def test_a_dropped_connection_is_resumed_where_it_broke(site, settings, tmp_path):
    url = site.put("/a", BODY, script=scripted(dropping(300_000)))
    check(download(url, tmp_path / "a", settings))
    ranges = [headers.get("Range") for _, headers in site.requests]
    assert ranges == [None, "bytes=300000-"]
    assert site.requests[1][1]["If-Range"].startswith('"')


def test_a_killed_process_is_resumed_too(site, settings, tmp_path):
    url = site.put("/a", BODY, script=scripted(dropping(1000)))
    once = settings.model_copy(update={"tries": 1})
    assert rejection(url, tmp_path / "a", once).reason == RejectReason.NETWORK
    assert (tmp_path / "a").stat().st_size == 1000
    check(download(url, tmp_path / "a", settings))
    assert site.requests[-1][1]["Range"] == "bytes=1000-"


@pytest.mark.parametrize("server", ["changed", "without_ranges", "without_validator", "wrong_range", "shorter"])
def test_what_cannot_be_resumed_begins_anew(site, settings, tmp_path, server):
    other = BODY[::-1]
    answers = {
        "changed": [dropping(5000, ETag='"older"')],
        "without_ranges": [dropping(5000)],
        "without_validator": [lambda handler: handler.answer(200, BODY[:5000], length=len(BODY))],
        "wrong_range": [
            dropping(5000),
            lambda handler: handler.answer(206, BODY[9:], {"Content-Range": f"bytes 9-{len(BODY) - 1}/{len(BODY)}"}),
        ],
        "shorter": [dropping(5000), refusing(416)],
    }[server]
    body = other if server == "changed" else BODY
    url = site.put("/a", body, ranges=server != "without_ranges", script=scripted(*answers))
    check(download(url, tmp_path / "a", settings), body)


def test_a_wrong_length_is_named(site, settings, tmp_path):
    packed = site.put("/b", gzip.compress(BODY)[:-20], headers={"Content-Encoding": "gzip"})
    assert rejection(packed, tmp_path / "b", settings).reason == RejectReason.WRONG_LENGTH
    assert site.hits["/b"] == settings.tries


def test_retry_after_is_honoured(site, settings, tmp_path):
    url = site.put("/a", BODY, script=scripted(refusing(429, Retry_After="1")))
    begin_s = time.monotonic()
    check(download(url, tmp_path / "a", settings))
    assert time.monotonic() - begin_s >= 1.0


def test_a_long_retry_after_is_a_block_and_not_waited_for(site, settings, tmp_path):
    url = site.put("/a", BODY, script=scripted(refusing(503, Retry_After="7200")))
    assert rejection(url, tmp_path / "a", settings).reason == RejectReason.BLOCKED
    assert site.hits["/a"] == 1


def test_retry_after_is_read_as_number_and_date():
    assert retry_after_s("12") == 12
    assert 8 < retry_after_s(time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime(time.time() + 10))) <= 10
    assert [retry_after_s(text) for text in (None, "", "soon", "-5")] == [None, None, None, 0.0]


@pytest.mark.parametrize(
    ("answers", "reason", "hits"),
    [
        ([503, 503], None, 3),
        ([408, 500], None, 3),
        ([503, 503, 503], RejectReason.NETWORK, 3),
        ([429, 429, 429], RejectReason.BLOCKED, 3),
        ([404], RejectReason.NOT_FOUND, 1),
        ([410], RejectReason.NOT_FOUND, 1),
        ([403], RejectReason.FORBIDDEN, 1),
        ([451], RejectReason.FORBIDDEN, 1),
    ],
)
def test_statuses_are_retried_or_named(site, settings, tmp_path, answers, reason, hits):
    url = site.put("/a", BODY, script=scripted(*[refusing(status) for status in answers]))
    if reason is None:
        check(download(url, tmp_path / "a", settings))
    else:
        assert rejection(url, tmp_path / "a", settings).reason == reason
    assert site.hits["/a"] == hits


def test_a_connection_that_nobody_takes_is_named(settings, tmp_path):
    with socket.socket() as bound:  # bound, and not listening
        bound.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{bound.getsockname()[1]}/"
        assert rejection(url, tmp_path / "a", settings).reason == RejectReason.NETWORK


def test_a_slow_drip_is_given_up(site, settings, tmp_path):
    url = site.put("/a", BODY, script=lambda handler, _: (drip(handler, BODY[:200], interval_s=0.02), True)[1])
    impatient = settings.model_copy(update={"slow_window_s": 0.3, "min_bytes_per_s": 1000.0})
    assert rejection(url, tmp_path / "a", impatient).reason == RejectReason.TOO_SLOW
    assert site.hits["/a"] == 1


def test_headers_that_drip_are_given_up(site, settings, tmp_path):
    def trickle(handler, _) -> bool:
        for byte in b"HTTP/1.1 200 OK\r\n" + b"X-Padding: 1\r\n" * 100:
            handler.wfile.write(bytes([byte]))
            time.sleep(0.02)
        return True

    url = site.put("/a", BODY, script=trickle)
    impatient = settings.model_copy(update={"read_timeout_s": 0.2, "slow_window_s": 0.2, "tries": 2})
    begin_s = time.monotonic()
    assert rejection(url, tmp_path / "a", impatient).reason == RejectReason.TOO_SLOW
    assert time.monotonic() - begin_s < 10
    assert site.hits["/a"] == 2


@pytest.fixture
def selfsigned(site, tmp_path) -> tuple[str, str]:
    """The site by https, with a certificate that nobody vouches for: the address, the certificate."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "loopback")])
    now = datetime.datetime.now(datetime.UTC)
    builder = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number(), now, now + DAY)
    own_name = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    signed = builder.add_extension(own_name, critical=False).sign(key, hashes.SHA256())
    secret = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    certificate = tmp_path / "certificate.pem"
    certificate.write_bytes(signed.public_bytes(Encoding.PEM) + secret)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    site.server.socket = context.wrap_socket(site.server.socket, server_side=True)
    return site.base_url.replace("http:", "https:"), str(certificate)


def test_a_certificate_must_be_vouched_for(site, settings, tmp_path, selfsigned, monkeypatch):
    base_url, certificate = selfsigned
    site.put("/a", BODY)
    found = rejection(f"{base_url}/a", tmp_path / "a", settings)
    assert (found.reason, site.hits["/a"]) == (RejectReason.NETWORK, 0)
    assert "certificate" in found.detail

    trusting = ssl.create_default_context(cafile=certificate)
    monkeypatch.setattr(connections, "tls_context", lambda: trusting)
    check(
        download(
            f"{base_url}/a", tmp_path / "a", settings.model_copy(update={"user_agent": f"trusting/{tmp_path.name}"})
        )
    )


def test_silence_is_given_up(site, settings, tmp_path):
    url = site.put("/a", BODY, script=lambda *_: (time.sleep(0.6), True)[1])
    impatient = settings.model_copy(update={"read_timeout_s": 0.2, "tries": 2})
    assert rejection(url, tmp_path / "a", impatient).reason == RejectReason.TOO_SLOW
    assert site.hits["/a"] == 2


def endless(handler, _) -> bool:
    handler.send_response(200)
    handler.send_header("Transfer-Encoding", "chunked")
    handler.end_headers()
    while True:
        handler.wfile.write(b"10000\r\n" + b"x" * 65536 + b"\r\n")


@pytest.mark.parametrize("kind", ["declared", "endless", "bomb"])
def test_more_than_the_limit_is_refused(site, settings, tmp_path, kind):
    small = settings.model_copy(update={"max_bytes": 500_000, "max_document_bytes": 500_000})
    if kind == "bomb":  # 20 MB of zeros in 20 kB
        url = site.put("/a", gzip.compress(bytes(20_000_000)), headers={"Content-Encoding": "gzip"})
    else:
        url = site.put("/a", BODY, script=endless if kind == "endless" else None)
    assert rejection(url, tmp_path / "a", small).reason == RejectReason.TOO_LARGE
    assert not (tmp_path / "a").exists()
    with pytest.raises(Rejected, match="too_large"):
        get_document(url, small)


def test_redirects_are_followed_and_counted(site, settings, tmp_path):
    def redirect(path: str, target: str) -> str:
        return site.put(path, script=lambda handler, _: (handler.answer(302, b"", {"Location": target}), True)[1])

    site.put("/end", BODY)
    result = download(redirect("/1", "/end"), tmp_path / "a", settings)
    check(result)
    assert result.url.endswith("/end")
    redirect("/x", "/y")
    assert rejection(redirect("/y", "/x"), tmp_path / "b", settings).reason == RejectReason.BAD_REDIRECT
    for n in range(12):
        redirect(f"/long{n}", f"/long{n + 1}")
    assert rejection(site.base_url + "/long0", tmp_path / "b", settings).reason == RejectReason.BAD_REDIRECT
    for n, target in enumerate(["file:///etc/passwd", "ftp://example.org/a", "gopher://x", "//", "http://[::bad/", ""]):
        assert rejection(redirect(f"/bad{n}", target), tmp_path / "b", settings).reason == RejectReason.BAD_REDIRECT


@pytest.mark.parametrize(
    "target",
    ["http://127.0.0.2:{port}/", "http://[::1]:{port}/", "http://169.254.169.254/latest/", "http://0x7f000002:{port}/",
     "http://10.1.2.3/", "http://[::ffff:127.0.0.2]:{port}/", "http://0.0.0.0:{port}/", "http://[fe80::1]/"],
)  # fmt: skip
def test_a_redirect_into_a_private_network_is_refused(site, settings, tmp_path, monkeypatch, target):
    """The loopback server plays a public host: 127.0.0.1 alone is taken for one."""
    is_public = addresses.is_public
    monkeypatch.setattr(addresses, "is_public", lambda address: address == "127.0.0.1" or is_public(address))
    strict = settings.model_copy(update={"allow_private_hosts": False})
    location = target.format(port=site.base_url.rsplit(":", 1)[1])
    url = site.put("/a", script=lambda handler, _: (handler.answer(302, b"", {"Location": location}), True)[1])
    assert rejection(url, tmp_path / "a", strict).reason == RejectReason.PRIVATE_ADDRESS
    assert site.hits == {"/a": 1}


def test_a_name_is_resolved_once_for_check_and_connection(site, settings, tmp_path, monkeypatch):
    """A name server that answers "public" to the check and "private" to the connection gets no second question."""
    is_public, getaddrinfo, asked = addresses.is_public, socket.getaddrinfo, []

    def rebinding(host, *rest, **options):
        if host != "rebind.test":
            return getaddrinfo(host, *rest, **options)
        asked.append(host)
        return getaddrinfo("127.0.0.1" if len(asked) == 1 else "127.0.0.2", *rest, **options)

    monkeypatch.setattr(socket, "getaddrinfo", rebinding)
    monkeypatch.setattr(addresses, "is_public", lambda address: address == "127.0.0.1" or is_public(address))
    site.put("/a", BODY)
    url = site.base_url.replace("127.0.0.1", "rebind.test") + "/a"
    strict = settings.model_copy(update={"allow_private_hosts": False, "user_agent": "rebind/1"})
    check(download(url, tmp_path / "a", strict))
    assert asked == ["rebind.test"]


@pytest.mark.parametrize(
    ("address", "public"),
    [
        *((address, True) for address in ("93.184.216.34", "2606:2800:220:1::1")),
        *((address, False) for address in ("127.0.0.1", "10.0.0.1", "100.64.0.1", "192.168.1.1", "169.254.169.254")),
        *((address, False) for address in ("0.0.0.0", "224.0.0.1", "::1", "fe80::1%eth0", "fc00::1")),
        *((address, False) for address in ("::ffff:10.0.0.1", "64:ff9b::a00:1", "2002:a00:1::")),
    ],
)
def test_public_addresses(address, public):
    assert addresses.is_public(address) is public


def test_documents_are_conditional_and_unpacked(site, settings):
    text = json.dumps({"a": "b" * 10_000}).encode()
    url = site.put("/a", gzip.compress(text), headers={"Content-Encoding": "gzip"})
    first = get_document(url, settings)
    assert first.body == text
    again = get_document(url, settings, etag=first.etag, last_modified=first.last_modified)
    assert again.body is None
