"""What distillation is: the GSIM loss, the modules that it trains and what pulls a student to its teacher."""
