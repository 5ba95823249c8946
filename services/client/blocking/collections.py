"""Collections and the deployment, over a blocking connection."""

from collections.abc import Mapping

from csr.v1 import control_pb2
from services.client import collections
from services.client.blocking.connection import Connection
from services.client.types import Collection, CollectionDescription, DeploymentStatus, FieldType, Kind, Versioning


class CollectionCalls(Connection):
    """Calls about whole collections."""

    def create_collection(
        self,
        name: str,
        model: str,
        *,
        kind: Kind = "dense",
        model_version: int = 0,
        fingerprint: str = "",
        hidden_dim: int = 0,
        k_max: int = 0,
        partitions: int = 0,
        versioning: Versioning = "assigned",
        fields: Mapping[str, FieldType] | None = None,
    ) -> Collection:
        """Create a collection.

        Args:
            name: 1..64 characters of a-z, 0-9, '-' and '_', beginning with a letter.
            model: Registered model; for kind codes, a name to remember it by.
            kind: `dense` takes embeddings and texts, `codes` takes codes.
            model_version: Version for kind dense; 0 takes the champion.
            fingerprint: Of the model; required for kind codes.
            hidden_dim: Number of latents; for kind codes only.
            k_max: Active latents kept per document; 0 takes the model's, for kind dense only.
            partitions: Hash buckets, fixed for ever; 0 takes 16.
            versioning: `client` if every write brings a version.
            fields: Members of payloads that filters may use, with their types; fixed for ever.

        Raises:
            CollectionExists: also when an earlier attempt succeeded, but its answer was lost.
        """
        request = collections.create_collection_request(
            name, kind, model, model_version, fingerprint, hidden_dim, k_max, partitions, versioning, fields
        )
        response = self._once(self._control.CreateCollection, request)
        return collections.collection(response.collection)

    def describe_collection(self, name: str) -> CollectionDescription:
        """Describe a collection: its model, its documents, and how far index servers have read."""
        request = control_pb2.DescribeCollectionRequest(name=name)
        return collections.collection_description(self._retried(self._control.DescribeCollection, request))

    def list_collections(self) -> list[Collection]:
        """Return all collections, by name."""
        request = control_pb2.ListCollectionsRequest()
        response = self._retried(self._control.ListCollections, request)
        return [collections.collection(message) for message in response.collections]

    def delete_collection(self, name: str) -> str:
        """Delete a collection and all its documents; return its id."""
        request = control_pb2.DeleteCollectionRequest(name=name)
        response = self._once(self._control.DeleteCollection, request)
        return response.collection_id

    def status(self) -> DeploymentStatus:
        """Tell which processes the router can reach and how far behind they are."""
        request = control_pb2.GetStatusRequest()
        return collections.deployment_status(self._retried(self._control.GetStatus, request))
