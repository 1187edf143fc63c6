"""From a plan to records: plan, engine, verdict, records, evaluate."""
