"""Order, retries and parameters: Prefect flows that join `storage` and `rdm_core`.

    images --import--> shards --build--> embeddings, index --neighbors--> neighbors --+
                         |                                                           |
                         +----encode--> latents --train--> runs <---------------------+
    runs + any database --sample--> samples      runs --evaluate--> evaluations --report--> reports

Each of these nine is a kind of artifact: a folder under the root that is whole or absent. The
docstring of the flow that builds a kind says what is in it, who makes it, who reads it, when it is
rebuilt and how it resumes. What holds for all of them is said here:

- A database is embeddings and an index of one name. Its sidecar is the table of rows beside images.
- An artifact's plan holds all that changes its bytes. It is kept while the plan of a new request is
  the same; a raised revision of its kind (`flows.run.revisions`) makes another plan.
- It is written in parts, or in one. A part that is finished stays when the build is interrupted,
  and a part of an older version is taken over where it would be made equal.
- Its fingerprint is a hash over its bytes. What is made from it records the fingerprint.
- `rdm demo` makes every kind. Deployments (`flows.deployed`) start the same flows; one of them, a
  rebuild, imports images and makes their database, neighbors and latents. `rdm query` reads every
  kind as tables (SQL).
"""
