"""Order, retries and parameters: Prefect flows that join `storage` and `rdm_core`."""
