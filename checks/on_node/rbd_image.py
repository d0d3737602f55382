"""Writes, reads or removes an RBD image; run on a node, with python3-rados and python3-rbd."""

import datetime
import hashlib
import os
import sys

import rados  # type: ignore[import-not-found] # what python3-rados brings to the node
import rbd  # type: ignore[import-not-found] # and python3-rbd

CONFIG = "/etc/pve/ceph.conf"
# Seconds, after which a cluster that does not read or write counts as broken instead of hanging the check.
PATIENCE = {"client_mount_timeout": "8", "rados_mon_op_timeout": "8", "rados_osd_op_timeout": "8"}
MIB = 2**20
# Four objects of 4 MiB, which lie on several OSDs; a part of each is written.
SIZE, OBJECT = 16 * MIB, 4 * MIB
PREFIX = "rackproof-proof-"
FORGOTTEN = datetime.timedelta(hours=1)


def main(deed: str, pool: str, name: str) -> None:
    """Do it, and print the checksum of the image's whole content after `write` and `read`."""
    ceph = rados.Rados(conffile=CONFIG, name="client.admin", conf=PATIENCE)
    with ceph, ceph.open_ioctx(pool) as images:
        if deed == "write":
            sweep(images)
            write(images, name)
        if deed == "remove":
            remove(images, name)
        else:
            print(digest(images, name))


def write(images: "rados.Ioctx", name: str) -> None:
    """Make the image, with random content."""
    rbd.RBD().create(images, name, SIZE, old_format=False)
    with rbd.Image(images, name) as image:
        for start in range(0, SIZE, OBJECT):
            image.write(os.urandom(MIB), start)
        image.flush()


def digest(images: "rados.Ioctx", name: str) -> str:
    """The SHA-256 of the image's content."""
    with rbd.Image(images, name, read_only=True) as image:
        content = b"".join(image.read(start, OBJECT) for start in range(0, SIZE, OBJECT))
    return hashlib.sha256(content).hexdigest()


def remove(images: "rados.Ioctx", name: str) -> None:
    """Take the image away, if there is one."""
    try:
        rbd.RBD().remove(images, name)
    except rbd.ImageNotFound:
        return


def sweep(images: "rados.Ioctx") -> None:
    """Take away what checks left that were killed before they could."""
    now = datetime.datetime.now(datetime.UTC).replace(tzinfo=None)
    for name in rbd.RBD().list(images):
        if name.startswith(PREFIX) and now - born(images, name) > FORGOTTEN:
            remove(images, name)


def born(images: "rados.Ioctx", name: str) -> datetime.datetime:
    """When an image was made, in UTC."""
    with rbd.Image(images, name, read_only=True) as image:
        return image.create_timestamp()  # type: ignore[no-any-return]


main(*sys.argv[1:])
