"""`repot prune`: what a storage has, what of it is still needed, and deleting the rest.

inventory   everything under the storage URI, as units that are deleted as a whole
retention   which units are kept, and why
delete      deleting the others, so that nothing that is left looks complete but is not
uses        what runs note about what they use
"""
