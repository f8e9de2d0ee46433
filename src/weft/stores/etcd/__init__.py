"""The Store on etcd 3.4 and later, by its own gRPC API. Daemons make an EtcdStore; what is below is its own affair.

options      what an operator says: endpoints, files, user
codec        the protobuf encoding, as far as it is needed; messages: etcd's messages, ditto
connection   which member is asked, with which token, and what its refusals mean
watching     one watch: events in, full sets out
store        the Store's methods, in etcd's terms
"""

from weft.stores.etcd.options import EtcdOptions
from weft.stores.etcd.store import EtcdStore

__all__ = ["EtcdOptions", "EtcdStore"]
