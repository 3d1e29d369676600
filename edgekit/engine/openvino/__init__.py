"""The backend ``openvino``."""
