"""Cluster the calibration questions into the prototypes that every peer shares.

Run it only to make a new version of the space. The one before is kept beside it: both are spoken until the release
after, when its file, `prototypes_KIND_earlier.npy`, is to be deleted.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
from sklearn.cluster import KMeans

from p2pagent.experts.families import FAMILIES, questions
from p2pagent.routing.prototypes import Space, quantised
from p2pagent.routing.space import EMBEDDERS, prototypes_file

QUESTIONS_PER_FAMILY = 64


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kind", choices=sorted(EMBEDDERS), help="the embedder to build for")
    parser.add_argument("--count", type=int, default=24, help="number of prototypes")
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    embedder = EMBEDDERS[given.kind]()
    asked = [q for f in FAMILIES for q in questions(f, "calibration", QUESTIONS_PER_FAMILY, given.seed)]
    vectors = embedder.embed([q.prompt for q in asked])
    centres = KMeans(n_clusters=given.count, random_state=given.seed, n_init=10).fit(vectors).cluster_centers_
    path = Path(str(prototypes_file(given.kind)))
    if path.exists():
        path.replace(str(prototypes_file(given.kind, "_earlier")))
    np.save(path, quantised(centres.astype(np.float32)))
    space = Space(embedder, np.load(path).astype(np.float32))
    nearest = [space.nearest(space.embed(q.prompt)).prototypes[0] for q in asked]
    mixed = sum(len({q.family for q, n in zip(asked, nearest, strict=True) if n == m}) > 1 for m in range(given.count))
    print(f"{space.name}: {given.count} prototypes, {mixed} near questions of several families", file=sys.stderr)


if __name__ == "__main__":
    main()
