"""What a listing of a data set holds, for a look at one thing of it."""


def images_by_id(listing):
    """source_id -> image."""
    return {image.source_id: image for image in listing.images}


def ids_of(listing):
    """The ids of the images, in their order."""
    return [image.source_id for image in listing.images]


def captions_of(listing):
    """The captions of each image, in the order of the images."""
    return [image.captions for image in listing.images]


def with_files(listing):
    """The images that have a file that can be read."""
    return [image for image in listing.images if image.path]


def labelled(listing):
    """The images with a label."""
    return [image for image in listing.images if image.labels]


def notes_about(listing, start):
    """The names of the notes that begin so."""
    return {name for name in listing.notes if name.startswith(start)}
