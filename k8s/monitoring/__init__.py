"""What Prometheus, Alertmanager and Grafana are told, and the code that makes some of it."""
