"""Metrics of agents and replicas, as Prometheus reads them."""
