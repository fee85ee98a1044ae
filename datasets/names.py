"""Names of the sets of graphs; importing them needs no torch, for settings look at them."""

# canonical name -> name of the GIN form, "" where that has none; PTC has the
# hydrogen atoms that TU's PTC_MR lacks, so the two are not one set.
GIN_NAMES = {
    "MUTAG": "MUTAG",
    "PTC_MR": "",
    "PTC": "PTC",
    "ENZYMES": "ENZYMES",
    "PROTEINS": "PROTEINS",
    "PROTEINS_full": "",
    "DD": "DD",
    "NCI1": "NCI1",
    "NCI109": "NCI109",
    "COLLAB": "COLLAB",
    "IMDB-BINARY": "IMDBBINARY",
    "IMDB-MULTI": "IMDBMULTI",
    "REDDIT-BINARY": "REDDITBINARY",
    "REDDIT-MULTI-5K": "REDDITMULTI5K",
}

OGBG_NAMES = (
    "ogbg-molbace", "ogbg-molbbbp", "ogbg-molclintox", "ogbg-molmuv", "ogbg-molpcba",
    "ogbg-molsider", "ogbg-moltox21", "ogbg-moltoxcast", "ogbg-molhiv", "ogbg-molesol",
    "ogbg-molfreesolv", "ogbg-mollipo", "ogbg-molchembl",
)  # fmt: skip
