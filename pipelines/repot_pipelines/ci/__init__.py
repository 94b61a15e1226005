"""`repot ci`: check the code, retrain on the cluster, and say in Markdown what came out.

`ci` is the order of things, `comment` the Markdown; both take facts and touch neither environment nor command line.
"""
