"""The Streamlit app: reads `hpo.results`, draws with Plotly. Its pages are still to come."""
