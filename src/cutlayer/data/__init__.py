"""Samples, and who holds which.

sources.py reads what a job names into the train and test sets of dataset.py: folders of images
(folders.py), tables and hub data sets (tables.py, delimited.py, hub.py), by the rules of splits.py
and labels.py. images.py and viewing.py decode images; stored_images.py decodes them only when they
are needed, those of a table from the file that spool.py makes; image_augmentation.py changes images
at random. partition.py divides samples among devices and label_counts.py counts what they hold;
device_data.py reads the data of one device, unlabelled.py the files that a model is asked about.
generate.py draws images (diffusion.py with our own model, pipelines.py with any other;
image_generator.py numbers and resizes what they draw). report.py says what was loaded.
"""
