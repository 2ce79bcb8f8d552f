// `calls` is the id of the element; the document is this gateway's own.
window.ui = SwaggerUIBundle({
  url: "../openapi.json",
  dom_id: "#calls",
  deepLinking: true,
  filter: true,
  persistAuthorization: true,
  validatorUrl: null,
  defaultModelsExpandDepth: 0,
});
