"""PEM text ▸ whether it holds certificates. Pure."""

from cryptography import x509


def holds_certificates(text: str) -> bool:
    """At least one, and nothing between its marks that is none."""
    try:
        return bool(x509.load_pem_x509_certificates(text.encode()))
    except ValueError:
        return False
