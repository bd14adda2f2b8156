"""A bucket of the server in s3_server: where the small artifact of building lies in it, and how its
objects come to harm.
"""

from building import PLAN

URL = "s3://bucket/some/root"
HERE = f"bucket/some/root/shards/paintings/{PLAN.id}"
SECRET = "c2VjcmV0IGtleQ"
FINGERPRINT = "33efaa9cd2e7c89f"
"""Of the same build on a disk: tests/storage/test_artifact.py."""


def data_objects(s3):
    """The names of the objects that hold files of parts."""
    return [name for name in s3.objects if name.endswith((".tar", ".txt"))]


def object_ending(s3, ending):
    """The name of the first object that ends so."""
    for name in s3.objects:
        if name.endswith(ending):
            return name
    raise AssertionError(f"no object ends with {ending}")


def last_names(names):
    """The names of objects without the folders before them."""
    return [name.rpartition("/")[2] for name in names]


def bytes_of(artifact):
    """Path -> bytes of every file of an artifact, fetched where it has to be."""
    content = {}
    for part in artifact.parts:
        for file in part.files:
            content[file.path] = artifact.file(file.path).read_bytes()
    return content


def deleted(s3, name):
    del s3.objects[name]


def truncated(s3, name):
    s3.objects[name] = s3.objects[name][:-1]
