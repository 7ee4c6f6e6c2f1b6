"""What tests share: real servers, a small PKI, ports, waiting."""
