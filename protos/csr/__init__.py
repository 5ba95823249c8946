"""Generated protocol stubs; see protos/csr/v1/*.proto."""
