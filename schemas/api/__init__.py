"""The gRPC API of the replicas: `mesh.proto` and what is generated from it. Objects travel in their stored encoding."""
