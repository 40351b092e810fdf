"""The MQTT connection that hub and agent share: a port, its implementation on paho-mqtt, and an in-memory twin."""
