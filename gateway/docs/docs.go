// Package docs serves the OpenAPI document and Swagger UI, from which a person can call the service.
package docs

import (
	"embed"
	"net/http"
	"path"
	"strings"
)

// Path is where the page is.
const Path = "/docs/"

// own are the page and the document, which is generated.
//
//go:embed index.html start.js fitserve.swagger.json
var own embed.FS

// assets are Swagger UI's, which `npm ci` has brought, with their licence.
//
//go:embed node_modules/swagger-ui-dist/swagger-ui.css node_modules/swagger-ui-dist/swagger-ui-bundle.js
//go:embed node_modules/swagger-ui-dist/favicon-32x32.png
//go:embed node_modules/swagger-ui-dist/LICENSE node_modules/swagger-ui-dist/NOTICE
var assets embed.FS

// policy lets the page load and call nothing but this gateway. Swagger UI sets styles by script.
const policy = "default-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; frame-ancestors 'none'"

// Handler serves the page, and leaves all else to next.
func Handler(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		files, name := find(r.URL.Path)
		switch {
		case r.Method != http.MethodGet && r.Method != http.MethodHead:
			next.ServeHTTP(w, r)
		case r.URL.Path == "/" || r.URL.Path+"/" == Path:
			http.Redirect(w, r, Path, http.StatusFound)
		case has(files, name):
			w.Header().Set("Content-Security-Policy", policy)
			http.ServeFileFS(w, r, files, name)
		default:
			next.ServeHTTP(w, r)
		}
	})
}

// find returns where the file of a URL's path is, if it is one of ours.
func find(urlPath string) (embed.FS, string) {
	name, below := strings.CutPrefix(urlPath, Path)
	switch {
	case urlPath == Path:
		return own, "index.html"
	case urlPath == "/openapi.json":
		return own, "fitserve.swagger.json"
	case below && path.Base(name) == name:
		if has(own, name) {
			return own, name
		}
		return assets, "node_modules/swagger-ui-dist/" + name
	default:
		return own, ""
	}
}

func has(files embed.FS, name string) bool {
	file, err := files.Open(name)
	if err != nil {
		return false
	}
	defer file.Close()
	status, err := file.Stat()
	return err == nil && !status.IsDir()
}
