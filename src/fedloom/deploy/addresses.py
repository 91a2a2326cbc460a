"""Names and addresses that enter file names, command lines and configuration files: one strict form each.

Whatever does not have the form is refused, so that nothing has to be escaped where it is used.
"""

import ipaddress
import re
from typing import Annotated

from pydantic import AfterValidator

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
LABEL = re.compile(r"[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?")
"""One part of a host name between dots (RFC 1123)."""
PORT = re.compile(r"[1-9][0-9]{0,4}")


def _name(text: str) -> str:
    if NAME.fullmatch(text) is None:
        raise ValueError(f"{text!r} is no site's name; use letters, digits, dots and dashes")
    return text


def _host(text: str) -> str:
    labels = text.split(".")
    numeric = labels[-1].isdigit()  # such as 10.0.0.300: meant as an address
    if len(text) <= 253 and not numeric and all(LABEL.fullmatch(label) for label in labels):
        return text
    try:
        if "%" not in text:  # a zone may hold any character
            return str(ipaddress.ip_address(text))
    except ValueError:
        pass
    raise ValueError(f"{text!r} is no host; use a name such as fl.example.org, or an IP address")


def _endpoint(text: str) -> str:
    host, _, port = text.rpartition(":")
    if PORT.fullmatch(port) is None or int(port) > 65535:
        raise ValueError(f"{text!r} is no address; use host:port, such as fl.example.org:443")
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    if (":" in bare) != (bare != host):
        raise ValueError(f"{text!r} is no address; an IPv6 address stands in brackets, such as [::1]:443")
    return f"{in_url(_host(bare))}:{port}"


def in_url(host: str) -> str:
    """A host as URLs and nginx write it: an IPv6 address stands in brackets."""
    return f"[{host}]" if ":" in host else host


SiteName = Annotated[str, AfterValidator(_name)]
"""A site's name, up to 64 characters: a folder's name and a command's argument."""
Host = Annotated[str, AfterValidator(_host)]
"""A host name (RFC 1123, ASCII) or an IP address without a zone."""
Endpoint = Annotated[str, AfterValidator(_endpoint)]
"""`host:port`."""
