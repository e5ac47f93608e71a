"""Requests that no router should serve, byte for byte, each with the status of its answer."""

from http import HTTPStatus

from router.policy.request_head import MAX_HEAD_BYTES

_LINE = b"POST /run_code HTTP/1.1\r\n"
_HOST = b"Host: router\r\n"
_LENGTH = b"Content-Length: 2\r\n"
_CHUNKED = b"Transfer-Encoding: chunked\r\n"
_LAST_CHUNK = b"0\r\n\r\n"
_BODY = b"{}"

WELL_FORMED = {
    "plain": _LINE + _HOST + _LENGTH + b"\r\n" + _BODY,
    "chunked": _LINE + _HOST + _CHUNKED + b"\r\n2;a=b\r\n{}\r\n0\r\nX-Trailer: 1\r\n\r\n",
    "empty line first": b"\r\n" + _LINE + _HOST + _LENGTH + b"\r\n" + _BODY,
    "HTTP/1.0 without Host": b"POST /run_code HTTP/1.0\r\n" + _LENGTH + b"\r\n" + _BODY,
    "Host with an address and a port": _LINE + b"Host: [::1]:8000 \r\n" + _LENGTH + b"\r\n" + _BODY,
    "Host as Docker makes names": _LINE + b"Host: sfr_router-1.a:80\r\n" + _LENGTH + b"\r\n" + _BODY,
    "absolute target": b"POST http://router/run_code HTTP/1.1\r\n" + _HOST + _LENGTH + b"\r\n" + _BODY,
    "large head": _LINE + _HOST + b"X: " + b"x" * (MAX_HEAD_BYTES - 200) + b"\r\n" + _LENGTH + b"\r\n" + _BODY,
}


def _job(*fields: bytes) -> bytes:
    return _LINE + b"".join(field + b"\r\n" for field in fields) + b"\r\n" + _BODY


def _with(*fields: bytes) -> bytes:
    return _job(b"Host: router", b"Content-Length: 2", *fields)


def _host(value: bytes) -> bytes:
    return _job(b"Host:" + value, b"Content-Length: 2")


def _to(target: bytes) -> bytes:
    return WELL_FORMED["plain"].replace(b"/run_code", target)


def _of_length(value: bytes) -> bytes:
    return _job(b"Host: router", b"Content-Length:" + value)


def _coded(value: bytes) -> bytes:
    return _job(b"Host: router", b"Transfer-Encoding:" + value).removesuffix(_BODY) + b"2\r\n{}\r\n" + _LAST_CHUNK


def _chunks(chunks: bytes) -> bytes:
    return _LINE + _HOST + _CHUNKED + b"\r\n" + chunks


_BAD = {
    "length and chunked": _with(b"Transfer-Encoding: chunked"),
    "chunked and length": _job(b"Host: router", b"Transfer-Encoding: chunked", b"Content-Length: 2"),
    "two lengths": _with(b"Content-Length: 3"),
    "two equal lengths": _with(b"Content-Length: 2"),
    "list of equal lengths": _of_length(b" 2, 2"),
    "length +2": _of_length(b" +2"),
    "length -1": _of_length(b" -1"),
    "length 0x2": _of_length(b" 0x2"),
    "length 2.0": _of_length(b" 2.0"),
    "length 1_0": _of_length(b" 1_0"),
    "length empty": _of_length(b""),
    "length of spaces": _of_length(b"  "),
    "length over 64 bits": _of_length(b" 99999999999999999999"),
    "folded line": _with(b"X: a\r\n b"),
    "folded first line": _job(b" X: a", b"Host: router", b"Content-Length: 2"),
    "bare LF everywhere": WELL_FORMED["plain"].replace(b"\r\n", b"\n"),
    "bare LF after the first line": WELL_FORMED["plain"].replace(b"\r\n", b"\n", 1),
    "bare LF in a field": _with(b"X: a\nY: b"),
    "bare LF at the end": _LINE + _HOST + _LENGTH + b"\n" + _BODY,
    "bare CR in a field": _with(b"X: a\rY: b"),
    "two Hosts": _with(b"Host: other"),
    "two equal Hosts": _with(b"host: router"),
    "no Host": _job(b"Content-Length: 2"),
    "empty Host": _host(b""),
    "Host of spaces": _host(b"  "),
    "Host with userinfo": _host(b"a@router"),
    "Host with a backslash and userinfo": _host(b"evil.com\\@127.0.0.1"),
    "Host with a path": _host(b"router/a"),
    "Host with a query": _host(b"router?a"),
    "Host with a space": _host(b"router a"),
    "Host with a comma": _host(b"router, router"),
    "Host with two ports": _host(b"router:80:80"),
    "Host with a port of letters": _host(b"router:a"),
    "Host beyond ASCII": _host(b"r\xc3\xb6uter"),
    "Host without a name": _host(b":80"),
    "Host with half an address": _host(b"[::1"),
    "empty Host in HTTP/1.0": _host(b"").replace(b"HTTP/1.1", b"HTTP/1.0"),
    "absolute target with userinfo": _to(b"http://a@router/run_code"),
    "absolute target with a backslash": _to(b"http://evil.com\\@127.0.0.1/run_code"),
    "absolute target without a host": _to(b"http:///run_code"),
    "space before a colon": _with(b"X : a"),
    "space before the length's colon": _job(b"Host: router", b"Content-Length : 2"),
    "tab before a colon": _with(b"X\t: a"),
    "no colon": _with(b"X"),
    "no name": _with(b": a"),
    "coding gzip": _coded(b" gzip"),
    "coding gzip, chunked": _coded(b" gzip, chunked"),
    "coding chunked, gzip": _coded(b" chunked, gzip"),
    "coding chunked twice": _coded(b" chunked, chunked"),
    "coding identity": _coded(b" identity"),
    "coding xchunked": _coded(b" xchunked"),
    "coding with a parameter": _coded(b" chunked;q=1"),
    "coding empty": _coded(b""),
    "coding after a vertical tab": _coded(b" \x0bchunked"),
    "two codings": _coded(b" chunked\r\nTransfer-Encoding: chunked"),
    "chunked in HTTP/1.0": _chunks(_LAST_CHUNK).replace(b"HTTP/1.1", b"HTTP/1.0"),
    "NUL in a value": _with(b"X: a\0b"),
    "control character in a value": _with(b"X: a\x01b"),
    "DEL in a value": _with(b"X: a\x7fb"),
    "NUL in a name": _with(b"X\0: a"),
    "quote in a name": _with(b'"X": a'),
    "NUL in the target": WELL_FORMED["plain"].replace(b"/run_code", b"/run\0code"),
    "space in the target": WELL_FORMED["plain"].replace(b"/run_code", b"/run code"),
    "method of lower case": WELL_FORMED["plain"].replace(b"POST", b"post"),
    "no version": WELL_FORMED["plain"].replace(b" HTTP/1.1", b""),
    "HTTP/2.0": WELL_FORMED["plain"].replace(b"HTTP/1.1", b"HTTP/2.0"),
    "HTTP/1.2": WELL_FORMED["plain"].replace(b"HTTP/1.1", b"HTTP/1.2"),
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    "chunk size g": _chunks(b"g\r\n{}\r\n" + _LAST_CHUNK),
    "chunk size +2": _chunks(b"+2\r\n{}\r\n" + _LAST_CHUNK),
    "chunk size -2": _chunks(b"-2\r\n{}\r\n" + _LAST_CHUNK),
    "chunk size 0x2": _chunks(b"0x2\r\n{}\r\n" + _LAST_CHUNK),
    "chunk size after a space": _chunks(b" 2\r\n{}\r\n" + _LAST_CHUNK),
    "chunk size before a space": _chunks(b"2 \r\n{}\r\n" + _LAST_CHUNK),
    "chunk size empty": _chunks(b"\r\n{}\r\n" + _LAST_CHUNK),
    "chunk size over 64 bits": _chunks(b"fffffffffffffffff\r\n{}\r\n" + _LAST_CHUNK),
    "chunk longer than its size": _chunks(b"1\r\n{}\r\n" + _LAST_CHUNK),
    "bare LF after a chunk's size": _chunks(b"2\n{}\r\n" + _LAST_CHUNK),
    "bare LF after a chunk": _chunks(b"2\r\n{}\n" + _LAST_CHUNK),
    "bare LF in a chunk's extension": _chunks(b"2;a\nb\r\n{}\r\n" + _LAST_CHUNK),
    "bare LF in a trailer": _chunks(b"2\r\n{}\r\n0\r\nX: a\n\r\n"),
    "length in a trailer": _chunks(b"2\r\n{}\r\n0\r\nContent-Length: 2\r\n\r\n"),
}
_TOO_LARGE = {
    "long field": _with(b"X: " + b"x" * MAX_HEAD_BYTES),
    "many fields": _with(*[b"X: x"] * (MAX_HEAD_BYTES // len(b"X: x\r\n"))),
    "long target": WELL_FORMED["plain"].replace(b"/run_code", b"/run_code?" + b"x" * MAX_HEAD_BYTES),
    "long trailer": _chunks(b"2\r\n{}\r\n0\r\nX: " + b"x" * 10 * MAX_HEAD_BYTES),
}
_UNSUPPORTED = {
    "upgrade": _with(b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c"),
    "websocket": _with(b"Connection: Upgrade", b"Upgrade: websocket"),
    "CONNECT": b"CONNECT router:80 HTTP/1.1\r\n" + _HOST + b"\r\n",
}

MALFORMED = {
    name: (request, status)
    for requests, status in (
        (_BAD, HTTPStatus.BAD_REQUEST),
        (_TOO_LARGE, HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE),
        (_UNSUPPORTED, HTTPStatus.NOT_IMPLEMENTED),
    )
    for name, request in requests.items()
}
