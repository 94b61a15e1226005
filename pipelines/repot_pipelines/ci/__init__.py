"""`repot ci`: check the code, retrain on the cluster, and write a Markdown comment on the result.

    job        the order of steps: sample check, run on the cluster, gate, comment
    comment    the text of the comment
    lineage    what champion and challenger were trained from, and how they differ
    markdown   escaping of text that comes from outside
    provider   the CI system: commit, comment file, job summary

Only `commands.ci` reads the environment and the command line.
"""
