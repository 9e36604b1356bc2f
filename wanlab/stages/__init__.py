"""The replaceable parts of pipelines, one file each."""
