"""The certificate by which nodes and people know the server: made there once, pinned by its SHA-256."""

from __future__ import annotations

import hashlib
import ssl
from dataclasses import dataclass
from typing import Any

from provision.errors import LabError
from provision.inventory import Lab
from provision.journal import Evidence
from provision.remote import Remote, script, tail

FOLDER = "/etc/rackproof/tls"
KEY, CERTIFICATE = f"{FOLDER}/server.key", f"{FOLDER}/server.crt"

# Kept when only root could ever read the key, it is the certificate's, the names are the lab's, and it
# lasts another 90 days. The key is in place before the certificate: one killed in between is made anew.
# The extensions come from here alone, because OpenSSL's own file would add a CA's.
MAKE = """set -eu
folder=$1 key=$2 crt=$3 address=$4 fqdn=$5 name=$6
good() {
  [ "$(stat -c %a "$key")" = 600 ] && [ -O "$key" ] && [ -s "$crt" ] &&
  openssl x509 -in "$crt" -noout -checkend 7776000 >/dev/null &&
  [ "$(openssl x509 -in "$crt" -noout -pubkey)" = "$(openssl pkey -in "$key" -pubout)" ] &&
  openssl x509 -in "$crt" -noout -ext subjectAltName |
    grep -qxF "    IP Address:$address, DNS:$fqdn, DNS:$name"
}
if good 2>/dev/null; then echo kept; elif [ "$7" = look ]; then echo none; exit; else
  mkdir -p "$folder"; chmod 755 "$folder"; new=$(mktemp -d "$folder/.new.XXXXXX"); trap 'rm -rf "$new"' EXIT
  umask 077
  cat >"$new/conf" <<CONF
[req]
distinguished_name = subject
prompt = no
x509_extensions = extensions
[subject]
CN = $fqdn
[extensions]
basicConstraints = critical, CA:FALSE
keyUsage = critical, digitalSignature
extendedKeyUsage = serverAuth
subjectKeyIdentifier = hash
subjectAltName = IP:$address, DNS:$fqdn, DNS:$name
CONF
  openssl req -x509 -new -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -sha256 -days 3650 \\
    -config "$new/conf" -keyout "$new/key" -out "$new/crt"
  chmod 644 "$new/crt"; sync "$new/key" "$new/crt"; mv -fT "$new/key" "$key"; mv -fT "$new/crt" "$crt"
  echo made
fi
cat "$crt"
"""
SHOW = "openssl s_client -connect {address} </dev/null 2>/dev/null | openssl x509 -outform PEM"


@dataclass(frozen=True, slots=True)
class Certificate:
    """The server's certificate as PEM."""

    pem: str

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the certificate, 64 hex digits."""
        return hashlib.sha256(ssl.PEM_cert_to_DER_cert(self.pem)).hexdigest()

    @property
    def facts(self) -> dict[str, Any]:
        """What the server step leaves of it as evidence; there is no secret in it."""
        return {"pem": self.pem, "fingerprint": self.fingerprint}


class Unmade(Certificate):
    """Stands for a certificate that is still to be made."""

    @property
    def fingerprint(self) -> str:
        """A word in the place of the digits."""
        return self.pem


UNMADE = Unmade("that-of-the-certificate-to-be-made")


def standing(lab: Lab, server: Remote) -> Certificate | None:
    """The server's certificate, None when it has to be made; nothing is touched."""
    how, _, pem = _said(lab, server, "look").partition("\n")
    return Certificate(pem) if how == "kept" else None


def ensure(lab: Lab, server: Remote) -> Certificate:
    """The server's certificate, made when it has to be."""
    return Certificate(_said(lab, server, "make").partition("\n")[2])


def _said(lab: Lab, server: Remote, purpose: str) -> str:
    names = [str(lab.server.address), f"{lab.server.name}.{lab.domain}", lab.server.name]
    return server.check(script(MAKE, FOLDER, KEY, CERTIFICATE, *names, purpose))


def read_back(lab: Lab, server: Remote, certificate: Certificate) -> None:
    """Raises LabError unless port 443 of the server shows this certificate."""
    address = f"{lab.server.address}:443"
    shown = server.run(SHOW.format(address=address))
    if shown.rc != 0 or Certificate(shown.stdout).fingerprint != certificate.fingerprint:
        seen = f"certificate {Certificate(shown.stdout).fingerprint}" if shown.rc == 0 else tail(shown.stderr)
        raise LabError(f"{address} does not show the certificate {certificate.fingerprint}", node=server.name,
                       last_seen=seen)  # fmt: skip


def recalled(evidence: Evidence) -> Certificate:
    """The certificate that the server step proved; raises LabError when it left none."""
    kept = evidence.facts.get("certificate")
    if not kept:
        raise LabError(
            "the server step left no certificate", likely="it is of an older rackproof: run it again"
        )
    return Certificate(kept["pem"])
