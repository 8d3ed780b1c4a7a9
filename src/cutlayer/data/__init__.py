"""Samples, and who holds which.

sources.py reads what a job names into the train and test sets of dataset.py: folders of images
(folders.py), tables and hub data sets (tables.py, delimited.py, hub.py), by the rules of splits.py
and labels.py; images.py and viewing.py decode (stored_images.py when they are needed, of tables
from the file that spool.py makes), image_augmentation.py changes images at random. partition.py
divides samples among devices and label_counts.py counts what they hold; device_data.py is what one
device has, unlabelled.py what a model is asked about. generate.py draws images (diffusion.py our
own model, pipelines.py any other, image_generator.py numbers and resizes what they draw). report.py
says what was loaded.
"""
