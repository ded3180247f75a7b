"""The only part of the controller that knows protobuf."""
